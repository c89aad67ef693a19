"""The `pmae` command: one small file a subcommand, no logic of its own."""
