"""The simulated network: nodes, links, machines and jobs, driven by the event loop."""
