//! teller-schemes
