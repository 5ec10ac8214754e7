from .readme import describe_id_ranges as describe_id_ranges
from .readme import render_calling_code as render_calling_code
from .readme import render_readme as render_readme
from .row_independence import rows_are_independent as rows_are_independent
from .triton import make_model_name as make_model_name
from .triton import make_model_repository as make_model_repository
