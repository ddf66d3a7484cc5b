"""What each verb does at a terminal: says what it is about to do, shows progress, prints tables, writes the report."""
