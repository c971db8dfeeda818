"""`python -m learner_worker` is `learner-worker`."""

from learner_worker.cli import main

if __name__ == "__main__":
    main()
