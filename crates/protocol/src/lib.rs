//! teller-protocol
