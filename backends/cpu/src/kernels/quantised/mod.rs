//! Kernels on quantised numbers: products of bytes that are summed exactly, and the ways from real
//! numbers to quantised ones and back.
//!
//! All products end in one microkernel, [`tile`], over weights in [`panels`].

pub(crate) mod conv;
pub(crate) mod depthwise;
pub(crate) mod last;
pub(crate) mod linear;
pub(crate) mod matmul;
pub(crate) mod panels;
pub(crate) mod product;
pub(crate) mod qlinear;
pub(crate) mod requantise;
pub(crate) mod tile;
