"""``python -m natscron`` is ``nats-cron``."""

from natscron.cli.main import main

if __name__ == "__main__":
    main()
