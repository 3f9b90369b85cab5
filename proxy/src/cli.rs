//! The command line. Values are text here; [`crate::config`] reads them, so that all that is wrong is said at once.

use clap::Parser;

/// Weir's sidecar: takes the calls of one app and the calls to it.
///
/// Each flag may be given by the variable named beside it; the flag wins.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-proxy", version, max_term_width = 120)]
pub struct Args {
    /// The workload's name, unique in its namespace. One proxy is one workload is one identity
    #[arg(long, value_name = "NAME", env = "WEIR_WORKLOAD", hide_env_values = true)]
    pub workload: Option<String>,

    /// The workload's namespace; short names that the app calls are looked up in it
    #[arg(long, value_name = "NS", env = "WEIR_NAMESPACE", hide_env_values = true)]
    pub namespace: Option<String>,

    /// The control plane: https:// and its TLS port, with --token-file; or http:// on this host. Needed unless
    /// --state-dir holds a configuration that was accepted before
    #[arg(long, value_name = "URL", env = "WEIR_CONTROL_PLANE", hide_env_values = true)]
    pub control_plane: Option<String>,

    /// The join token, by which the proxy gets its first certificate and knows the control plane; read anew whenever it
    /// joins
    #[arg(long, value_name = "FILE", env = "WEIR_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<String>,

    /// Roots (PEM) by which the control plane is known, instead of those that the join token names,
    /// until it has told of its own
    #[arg(long, value_name = "FILE", env = "WEIR_CA_FILE", hide_env_values = true)]
    pub ca_file: Option<String>,

    /// Keep key and certificate in --state-dir as well, readable by their owner alone, so that a restart needs no join
    /// token. By default they are in memory only
    #[arg(long, env = "WEIR_KEEP_IDENTITY", hide_env_values = true)]
    pub keep_identity: bool,

    /// The certificate (PEM, the server's own first) by which app ports marked `edge` take TLS from outside of the
    /// mesh, beside cleartext; read anew when it changes
    #[arg(long, value_name = "FILE", env = "WEIR_EDGE_CERT", hide_env_values = true)]
    pub edge_cert: Option<String>,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "WEIR_EDGE_KEY", hide_env_values = true)]
    pub edge_key: Option<String>,

    /// How what the control plane sends is read: strict refuses whatever this proxy would do nothing by; lenient, for
    /// control planes that are not Weir's, skips what is harmless and shows it in /config
    #[arg(
        long,
        value_name = "strict|lenient",
        default_value = "strict",
        env = "WEIR_XDS",
        hide_env_values = true
    )]
    pub xds: String,

    /// A port of the app, what it speaks (http, http2, grpc, tcp) and the port where others reach it; ",edge" marks a
    /// port where requests enter the mesh. Repeatable, or several with ';' between:
    /// 8080=http@15006,edge;9090=grpc@15007
    #[arg(
        long,
        value_name = "APP_PORT=PROTOCOL@PORT[,edge]",
        value_delimiter = ';',
        env = "WEIR_APP",
        hide_env_values = true
    )]
    pub app: Vec<String>,

    /// The address of the inbound listeners. Every address by default: others are on other hosts
    #[arg(
        long,
        value_name = "IP",
        default_value = "0.0.0.0",
        env = "WEIR_INBOUND_ADDRESS",
        hide_env_values = true
    )]
    pub inbound_address: String,

    /// The address at which others reach the inbound listeners. By default the local address of the connection to the
    /// control plane
    #[arg(long, value_name = "IP", env = "WEIR_ADVERTISE", hide_env_values = true)]
    pub advertise: Option<String>,

    /// Name servers for names outside of the mesh. By default those of /etc/resolv.conf; its search list is not used
    #[arg(long, value_name = "IP[:PORT],…", env = "WEIR_DNS", hide_env_values = true)]
    pub dns: Option<String>,

    /// Labels of the workload; Services select by them. With https:// they come with the join token instead
    #[arg(long, value_name = "KEY=VALUE,…", env = "WEIR_LABELS", hide_env_values = true)]
    pub labels: Option<String>,

    /// Where the workload runs
    #[arg(
        long,
        value_name = "REGION[/ZONE[/SITE]]",
        env = "WEIR_LOCALITY",
        hide_env_values = true
    )]
    pub locality: Option<String>,

    /// Where the app sends its calls: an address, or unix:PATH. Loopback by default: only the app may call as the app
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:15001",
        env = "WEIR_OUTBOUND",
        hide_env_values = true
    )]
    pub outbound: String,

    /// The admin port: /ready, /config, /drain, /log. Loopback by default: it shows configuration and can drain
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:15000",
        env = "WEIR_ADMIN",
        hide_env_values = true
    )]
    pub admin: String,

    /// The metrics port, /metrics. Every address by default: Prometheus is on another host
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "0.0.0.0:15020",
        env = "WEIR_METRICS",
        hide_env_values = true
    )]
    pub metrics: String,

    /// The health port: /healthz/ready, /healthz/live. Every address by default: a kubelet asks from outside
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "0.0.0.0:15021",
        env = "WEIR_HEALTH",
        hide_env_values = true
    )]
    pub health: String,

    /// Where accepted configuration is kept, so that a restart needs no control plane. By default nowhere
    #[arg(long, value_name = "DIR", env = "WEIR_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<String>,

    /// Threads of the data path. One by default: it carries what one app calls, and threads share no connections
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        env = "WEIR_WORKERS",
        hide_env_values = true
    )]
    pub workers: String,

    /// How long a drain waits for requests, tunnels and TCP connections under way (500ms, 30s, 2m). 30s by default, as
    /// Kubernetes waits before it kills
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        env = "WEIR_DRAIN_TIMEOUT",
        hide_env_values = true
    )]
    pub drain_timeout: String,

    /// Where spans are sent, by OTLP over gRPC; with https:// by TLS, to a collector whose certificate is for HOST. By
    /// default none are made
    #[arg(long, value_name = "http[s]://HOST:PORT", env = "WEIR_OTLP", hide_env_values = true)]
    pub otlp: Option<String>,

    /// The roots by which the collector is known, PEM; read for each connection to it. By default those that the system
    /// trusts
    #[arg(long, value_name = "FILE", env = "WEIR_OTLP_CA_FILE", hide_env_values = true)]
    pub otlp_ca_file: Option<String>,

    /// The share of traces begun here that are recorded, 0 to 1. One in a hundred by default: what is usual shows, at
    /// little cost. A trace begun elsewhere keeps its caller's decision. A TelemetryPolicy goes before
    #[arg(
        long,
        value_name = "SHARE",
        default_value = "0.01",
        env = "WEIR_TRACE_SAMPLING",
        hide_env_values = true
    )]
    pub trace_sampling: String,

    /// Where a JSON line for each request and each TCP connection goes: off, stdout, or a file's path. For which
    /// requests, a TelemetryPolicy may say. The proxy's own events go to stderr
    #[arg(
        long,
        value_name = "off|stdout|FILE",
        default_value = "stdout",
        env = "WEIR_ACCESS_LOG",
        hide_env_values = true
    )]
    pub access_log: String,

    /// What of the proxy's own events is logged: a level (off, error, warn, info, debug, trace), or TARGET=LEVEL,…;
    /// POST /log?level=… changes it
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "WEIR_LOG_LEVEL",
        hide_env_values = true
    )]
    pub log_level: String,

    /// How they are written: text or json
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "WEIR_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: String,

    /// How calls reach the proxy; only explicit yet: the app sends them to --outbound
    #[arg(
        long,
        value_name = "MODE",
        default_value = "explicit",
        env = "WEIR_MODE",
        hide_env_values = true
    )]
    pub mode: String,

    /// A port where the app reaches one service that carries TCP, and which: 127.0.0.1:5432=postgres.data:5432.
    /// Repeatable, or several with ';' between
    #[arg(
        long,
        value_name = "ADDR=SERVICE:PORT",
        value_delimiter = ';',
        env = "WEIR_LISTEN",
        hide_env_values = true
    )]
    pub listen: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn help_is_the_reference() {
        let help = Args::command().term_width(120).render_long_help().to_string();
        crate::test_golden::check("src/testdata/help.txt", &help);
    }

    #[test]
    fn each_flag_has_a_variable_of_its_own_name() {
        for arg in Args::command().get_arguments() {
            let name = format!("WEIR_{}", arg.get_id().as_str().to_ascii_uppercase());
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(name.as_str()));
        }
    }

    #[test]
    fn a_list_of_apps_comes_apart() {
        let args = ["weir-proxy", "--app", "1=http@2;3=grpc@4,edge", "--app", "5=http2@6"];
        let args = Args::try_parse_from(args).expect("well-formed");
        assert_eq!(args.app, ["1=http@2", "3=grpc@4,edge", "5=http2@6"]);
    }
}
