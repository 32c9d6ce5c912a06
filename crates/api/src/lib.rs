//! teller-api
