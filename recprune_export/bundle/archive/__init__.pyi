from .manifest_signature import SIGNATURE_BYTES as SIGNATURE_BYTES
from .manifest_signature import check_signature as check_signature
from .manifest_signature import read_private_key as read_private_key
from .packing import SUFFIX as SUFFIX
from .packing import pack as pack
from .sign import sign_bundle as sign_bundle
from .unpacking import is_packed as is_packed
from .unpacking import open_bundle_path as open_bundle_path
