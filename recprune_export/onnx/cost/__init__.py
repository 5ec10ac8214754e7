"""The cost model: workload of each operator, rates of a machine, estimates and lower bounds."""
