//! What teller says about itself: logs and metrics. No secrets go through here.

mod logs;
mod metrics;

pub use logs::start_logs;
pub use metrics::start_metrics;
