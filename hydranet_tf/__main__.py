"""`python -m hydranet_tf` is the command `hydranet`."""

from hydranet_tf.commands.main import main

# A process that `hydranet serve` starts imports this file, too.
if __name__ == "__main__":
    main()
