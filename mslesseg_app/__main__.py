"""``python -m mslesseg_app`` is the command ``mslesseg``."""

import sys

from mslesseg_app.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
