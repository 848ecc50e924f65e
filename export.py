"""`hydranet export` of this checkout: python export.py --help lists its flags."""

from hydranet_tf.commands import running

if __name__ == "__main__":
    running.script("export")
