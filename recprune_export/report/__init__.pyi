from ._write_page import default_page_path as default_page_path
from ._write_page import write_page as write_page
from .bundle_page import render_bundle_report as render_bundle_report
from .bundle_page import render_saved_bundle_report as render_saved_bundle_report
from .check_page import render_check_report as render_check_report
from .sweep_file import SWEEP as SWEEP
