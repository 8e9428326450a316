//! Log lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::LogFormat;
use crate::config::BadConfig;

/// Starts logging with this filter.
pub fn start(filter: &str, format: LogFormat) -> Result<(), BadConfig> {
    let filter = filter_of(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|error| BadConfig(format!("logging: {error}")))
}

/// The filter that was asked for, without what is no news for anybody.
fn filter_of(text: &str) -> Result<EnvFilter, BadConfig> {
    // A newer kernel's messages are longer than the netlink crate knows.
    let mut quiet = "netlink_packet_route=error".to_owned();
    // A session that ends by itself is an error to boringtun; what matters of it, links say in their own words.
    if parse(text)?.max_level_hint() <= Some(LevelFilter::INFO) {
        quiet.push_str(",boringtun=off");
    }
    parse(&format!("{quiet},{text}"))
}

fn parse(filter: &str) -> Result<EnvFilter, BadConfig> {
    EnvFilter::try_new(filter)
        .map_err(|error| BadConfig(format!("--log: {error}; expected such as info, debug or info,campfire_mesh=debug")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boringtuns_own_lines_are_for_those_who_debug() {
        for (asked, hidden) in [("info", true), ("warn", true), ("debug", false), ("info,boringtun=warn", false), ("trace", false)] {
            assert_eq!(filter_of(asked).unwrap().to_string().contains("boringtun=off"), hidden, "{asked}");
        }
    }

    #[test]
    fn a_filter_that_means_nothing_is_refused_with_an_example() {
        let error = filter_of("campfire=loud").unwrap_err().to_string();
        assert!(error.contains("info,campfire_mesh=debug"), "{error}");
    }
}
