from .find_jagged import find_jagged as find_jagged
from .input_rules import apply_input_rules as apply_input_rules
from .input_rules import find_bad_ids as find_bad_ids
from .input_rules import with_bad_ids as with_bad_ids
from .random_requests import RequestArrays as RequestArrays
from .random_requests import fill_input as fill_input
from .random_requests import sample_request as sample_request
from .valid_requests import find_valid_request as find_valid_request
