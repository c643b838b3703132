"""Task files for lm_eval's --include_path; `keylm.evaluation.robustness.write_tasks` wrote them."""
