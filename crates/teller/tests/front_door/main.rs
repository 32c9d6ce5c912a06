//! teller from outside: the real binary, a real chain, real stores, HTTP.

mod kill;
mod node_proxy;
mod refusals;
mod settle;
mod support;
mod verify;
