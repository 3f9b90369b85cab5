//! What can be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_api::{Kind, duration, names};

/// Asks and changes a Weir mesh: apply resources, see what is in force on which proxy, follow one request.
#[derive(Debug, Parser)]
#[command(name = "weirctl", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// The control plane's API
    #[arg(
        long,
        global = true,
        env = "WEIR_SERVER",
        default_value = "http://127.0.0.1:7440",
        value_name = "URL"
    )]
    pub(crate) server: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 failed (refused, not found, not reachable, not in force in time); 2 wrong usage.
Colours are used on a terminal only, and not if NO_COLOR is set.

Examples:
  weirctl apply -f routes.yaml --wait
  weirctl get httproutes -n citizen -o yaml
  weirctl status
  weirctl trace";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Creates or changes resources from files
    Apply(ApplyArgs),
    /// Shows resources
    Get(GetArgs),
    /// Deletes resources
    Delete(DeleteArgs),
    /// Shows which way a request would go, and why, without sending it
    Explain(ExplainArgs),
    /// Shows proxies, and what one of them has in force
    Proxy(ProxyArgs),
    /// Shows each proxy: connected or not, what is in force, what is pending, what it rejected and why
    Status(StatusArgs),
    /// Shows the latest traces, or one as a tree
    Trace(TraceArgs),
}

/// Which files.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// A file (YAML or JSON), a folder (its *.yaml, *.yml and *.json, at any depth), or - for standard input;
    /// repeatable
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Everything is read and checked first; nothing is applied if anything is wrong. Then each resource is created, or its \
spec, labels and annotations are replaced (its status stays), namespaces first. One line each:
  httproute/citizen/portal created|configured|unchanged

With --wait it ends when each resource is in force on all connected proxies that use it, and says how long that took; \
it fails at once when a proxy rejects one. A resource that no connected proxy uses is not waited for.")]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Namespace of resources that name none (and the only one that resources may name); otherwise: default
    #[arg(short, long, env = "WEIR_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
    /// Let the control plane check everything, change nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Wait until all is in force
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: 1h30m, 10s, 500ms
    #[arg(long, requires = "wait", default_value = "60s", value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Which kind: httproute, httproutes or HTTPRoute; short: svc, ns, eps, bp, wl
    #[arg(value_parser = kind)]
    pub(crate) kind: Kind,
    /// One of them; otherwise all
    #[arg(value_parser = name)]
    pub(crate) name: Option<String>,
    /// Their namespace
    #[arg(short, long, env = "WEIR_NAMESPACE", default_value = "default", value_parser = namespace)]
    pub(crate) namespace: String,
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Go on and print each change, until stopped
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// How resources are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line each, with what matters for the kind
    Table,
    /// As the API has them
    Json,
    /// As they can be applied again
    Yaml,
    /// kind/namespace/name, a line each
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Which kind
    #[arg(value_parser = kind, required_unless_present = "files", requires = "name")]
    pub(crate) kind: Option<Kind>,
    /// Its name
    #[arg(value_parser = name)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) files: Files,
    /// Its namespace; otherwise: default
    #[arg(short, long, env = "WEIR_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
    /// What is not there is no failure
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table)]
    pub(crate) output: ViewFormat,
}

/// How a view is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ViewFormat {
    /// For people
    Table,
    /// As the API has it
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The proxy follows the request through what it has in force, by the same rules: which name it becomes, which listener, routes \
and route take it, why earlier routes do not, the policies, the backends with their shares, each endpoint and why it is used. A \
name that its app has not used lately it asks the control plane for, as the request would. Nothing is sent to the service.

  weirctl explain http://health-code/query --from citizen/portal-1
  weirctl explain health-code:8080/query --method POST --header 'X-Group: beta' --proxy http://127.0.0.1:15000")]
pub(crate) struct ExplainArgs {
    /// What the app would call: http://NAME[:PORT][/PATH][?QUERY]; http:// may be left out
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) of: FromProxy,
    /// The request's method
    #[arg(short = 'X', long, default_value = "GET", value_name = "METHOD")]
    pub(crate) method: String,
    /// A field of its header, as NAME: VALUE; repeatable
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    pub(crate) headers: Vec<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table)]
    pub(crate) output: ViewFormat,
}

/// Which proxy sends it.
#[derive(Debug, Args)]
pub(crate) struct FromProxy {
    /// The workload that would call; otherwise the only one that is connected
    #[arg(long, value_parser = ProxyName::parse, value_name = "[NAMESPACE/]WORKLOAD", conflicts_with = "proxy")]
    pub(crate) from: Option<ProxyName>,
    /// Ask this proxy by itself, on its own host
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    #[command(subcommand)]
    pub(crate) command: ProxyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyCommand {
    /// Shows each proxy, as `weirctl status` does
    List(StatusArgs),
    /// Shows what a proxy runs with and all that it has in force, as JSON
    Config(OfProxy),
    /// Shows a proxy's clusters and endpoints, and why each endpoint is used or not
    Endpoints(EndpointsArgs),
}

/// Which proxy is asked.
#[derive(Debug, Args)]
pub(crate) struct OfProxy {
    /// The proxy's workload; otherwise the only one that is connected
    #[arg(value_parser = ProxyName::parse, value_name = "[NAMESPACE/]WORKLOAD", conflicts_with = "proxy")]
    pub(crate) workload: Option<ProxyName>,
    /// Ask this proxy by itself, on its own host
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EndpointsArgs {
    #[command(flatten)]
    pub(crate) of: OfProxy,
    /// Those of one cluster: SERVICE.NAMESPACE:PORT
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table)]
    pub(crate) output: ViewFormat,
}

/// A proxy by its workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl ProxyName {
    /// `namespace/name`, or a name in namespace `default`.
    pub(crate) fn parse(text: &str) -> Result<ProxyName, String> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if names::is_label(namespace) && names::is_label(name) {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            return Ok(ProxyName { namespace, name });
        }
        Err("is no workload: NAMESPACE/NAME is right, as `weirctl status` lists them".to_owned())
    }
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The trace, by its 32 hexadecimal digits; otherwise: a list of the latest
    #[arg(value_parser = trace_id)]
    pub(crate) id: Option<String>,
    /// How many to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "id")]
    pub(crate) limit: u32,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table)]
    pub(crate) output: ViewFormat,
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::of_name(text).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        format!("Weir knows no such kind; known are {}", known.join(", "))
    })
}

fn name(text: &str) -> Result<String, String> {
    let problem = "is no name: parts of a-z, 0-9 and '-', joined by '.', are right";
    if names::is_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err(problem.to_owned())
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let problem = "is no namespace: 1 to 63 characters of a-z, 0-9 and '-' are right";
    if names::is_label(text) {
        Ok(text.to_owned())
    } else {
        Err(problem.to_owned())
    }
}

fn trace_id(text: &str) -> Result<String, String> {
    if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("is no trace: 32 hexadecimal digits are right, as `weirctl trace` lists them".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
