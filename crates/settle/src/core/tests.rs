//! Behaviour of the state machine.
