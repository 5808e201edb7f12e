"""Which peer should get a job: the candidates of a model, the filters, the policies, and the explained order."""
