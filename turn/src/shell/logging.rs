//! The log, on standard error.

use tracing_subscriber::EnvFilter;

use super::config::{ConfigError, LogFormat};

/// Starts it; a filter that does not parse is an error.
pub fn start(format: LogFormat, filter: &str) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        ConfigError(format!(
            "--log {filter}: {error}; expected error, warn, info, debug, trace or a filter such as info,campfire_turn=trace"
        ))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
