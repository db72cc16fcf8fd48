"""`python -m routing.simulator --port P`: the simulator without Django."""

import argparse

from routing.simulator.server import add_arguments, run


def main() -> None:
    """Parse the command line and serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="simulator", description="Play an OpenAI-compatible provider.")
    add_arguments(parser)
    run(vars(parser.parse_args()))


if __name__ == "__main__":
    main()
