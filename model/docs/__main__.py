"""Write all generated pages.

python -m model.docs
"""

from __future__ import annotations

from . import all_methods, cifar100_page, methods_page, networks_page, params_page, params_schema

PAGES = (
    *(params_schema.PAGE, params_page.PAGE, methods_page.PAGE, networks_page.PAGE, cifar100_page.PAGE),
    all_methods.PAGE,
)

if __name__ == "__main__":
    for page in PAGES:
        page.write()
