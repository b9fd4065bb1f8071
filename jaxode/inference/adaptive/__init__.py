"""What solves adaptively: rows that stop by rule or budget, read-outs at every depth, exits."""
