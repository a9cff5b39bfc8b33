"""`python -m pacs` is `isocenter`."""

from pacs.cli import main

if __name__ == "__main__":
    main()
