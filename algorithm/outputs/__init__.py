"""What is handed over: candidates, the platform's files, a batch's folder and its progress."""
