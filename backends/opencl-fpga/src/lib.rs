//! The OpenCL backend of hetero.
