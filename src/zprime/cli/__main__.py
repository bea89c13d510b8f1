"""python -m zprime.cli."""

from zprime.cli import main

if __name__ == "__main__":
    main()
