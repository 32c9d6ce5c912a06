//! teller-store
