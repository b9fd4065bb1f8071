"""The command line of the evaluation harness, with models of jaxode in it."""

from jaxode.evaluation.harness import main

if __name__ == "__main__":
    main()
