"""`python -m pulse_trio`: the same as `pulse-trio`, where that is not on the path."""

from pulse_trio.program import main

if __name__ == "__main__":
    main(prog_name="pulse-trio")
