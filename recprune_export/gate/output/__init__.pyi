from .finding_rows import HEADINGS as HEADINGS
from .finding_rows import format_amount as format_amount
from .finding_rows import format_finding as format_finding
from .junit import render_junit as render_junit
from .junit import write_junit as write_junit
from .markdown import render_markdown as render_markdown
from .markdown import write_markdown as write_markdown
