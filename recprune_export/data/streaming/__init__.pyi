from .data_files import find_data_files as find_data_files
