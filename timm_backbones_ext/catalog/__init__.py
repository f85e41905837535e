"""Facts on models for the command line and the pages: lists, levels, parameters, multiply-adds, pictures."""
