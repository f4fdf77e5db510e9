//! The program `weir`: its command line, the administration of a cluster, and the tools for stopped brokers' files.
//!
//! In: arguments. Out: text and an exit code. Never: what a broker does (it starts one).
#![forbid(unsafe_code)]

mod admin;
pub mod cli;
mod properties;
mod tools;
