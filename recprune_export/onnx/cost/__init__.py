"""The cost model: work of each operator, rates of a machine, estimates and floors."""
