//! Log lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::LogFormat;
use crate::config::BadConfig;

/// Starts logging with this filter.
pub fn start(filter: &str, format: LogFormat) -> Result<(), BadConfig> {
    // A newer kernel's messages are longer than the netlink crate knows: no news for anybody.
    let filter = format!("netlink_packet_route=error,{filter}");
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| BadConfig(format!("--log: {error}; expected such as info, debug or info,campfire_mesh=debug")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|error| BadConfig(format!("logging: {error}")))
}
