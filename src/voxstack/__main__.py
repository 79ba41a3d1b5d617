"""``python -m voxstack`` is the command `voxstack`."""

from voxstack.cli import main

if __name__ == "__main__":
    main()
