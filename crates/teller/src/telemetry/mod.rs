//! What teller says about itself: logs and metrics. No secrets go through here.

mod compensations;
mod heads;
mod logs;
mod metrics;
mod zeros;

pub use compensations::count_compensations;
pub use heads::watch_heads;
pub use logs::start_logs;
pub use metrics::start_metrics;
pub use zeros::register_metrics;
