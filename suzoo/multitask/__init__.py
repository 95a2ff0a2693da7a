"""Several losses or gradients made into one."""
