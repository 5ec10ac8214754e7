"""Validation of the license of an artifact, an SPDX expression."""

from recprune_export.errors import UsageError


def canonicalize_license(text: str) -> str:
    """Return an SPDX expression in its canonical spelling.

    Raises `UsageError` for anything else.

    >>> canonicalize_license("apache-2.0"), canonicalize_license("mit or LicenseRef-Acme")
    ('Apache-2.0', 'MIT OR LicenseRef-Acme')
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression as error:
        raise UsageError(
            f"--license '{text}' is not an SPDX expression: write for example Apache-2.0, or LicenseRef-Acme for custom "
            "terms (https://spdx.org/licenses)."
        ) from error
