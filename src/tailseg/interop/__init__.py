"""Other frameworks' checkpoints in and out, and comparisons with what those frameworks compute."""
