"""What a run has learnt: its report, drawn from the files in the run folder."""
