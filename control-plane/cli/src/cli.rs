//! What can be asked for on the command line.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "these comments are what --help prints, as people read it in a terminal"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_api::{Key, Kind, Scope, duration, names};

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
Exit codes: 0 done; 1 failed (refused, not found, not reachable, not in force in time); 2 wrong usage. Of `diff`: 0 no \
difference, 1 differences, 2 not known. Of `check`: 0 all is well, 1 something is wrong.
Colours and progress are shown on a terminal only, colours not if NO_COLOR is set.

Examples:
  weirctl diff -f routes.yaml
  weirctl apply -f routes.yaml --wait
  weirctl explain http://health-code/query --from citizen/portal-1
  weirctl check";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Creates or changes resources from files
    Apply(ApplyArgs),
    /// Shows what apply would change
    Diff(DiffArgs),
    /// Shows resources
    Get(GetArgs),
    /// Shows one resource with its conditions, where it is in force, and what refers to it
    Describe(DescribeArgs),
    /// Changes a resource in an editor
    Edit(EditArgs),
    /// Deletes resources
    Delete(DeleteArgs),
    /// Waits until a resource is in force, is gone, or has a condition
    Wait(WaitArgs),
    /// Shows which way a request would go, and why, without sending it
    Explain(ExplainArgs),
    /// Shows proxies, and what one of them has in force
    Proxy(ProxyArgs),
    /// Looks whether the mesh is well: control plane, proxies, clocks, resources; each finding with a remedy
    Check(CheckArgs),
    /// Shows each proxy: connected or not, what is in force, what is pending, what it rejected and why
    Status(StatusArgs),
    /// Shows the latest traces, or one as a tree
    Trace(TraceArgs),
    /// Shows the certificate authority, and changes its root
    Ca(CaArgs),
    /// Gets a certificate, for Envoy, a test or a person
    Cert(CertArgs),
    /// Makes join tokens, by which proxies get their first certificate
    Token(TokenArgs),
    /// Prints what makes a shell complete weirctl's commands
    Completion(CompletionArgs),
    /// Writes manual pages
    Man(ManArgs),
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
    #[arg(short, long, env = "WEIRCTL_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
    /// Let the control plane check everything, change nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Delete what has the labels of --selector, lives in a namespace that the files name, and stands in no file. Only
    /// said, unless --yes is given as well. Namespaces and MeshConfigs are never pruned
    #[arg(long, requires = "selector")]
    pub(crate) prune: bool,
    /// With --prune: the labels that all these resources have, as NAME=VALUE,...
    #[arg(short = 'l', long, requires = "prune", value_parser = Selector::parse, value_name = "LABELS")]
    pub(crate) selector: Option<Selector>,
    /// With --prune: do it
    #[arg(long, requires = "prune")]
    pub(crate) yes: bool,
    /// Wait until all is in force
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: 1h30m, 10s, 500ms
    #[arg(long, requires = "wait", default_value = "60s", value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

/// Labels with their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(Vec<(String, String)>);

impl Selector {
    fn parse(text: &str) -> Result<Selector, String> {
        let pairs = text.split(',').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let right = names::is_label_key(name) && names::is_label_value(value);
            right.then(|| (name.to_owned(), value.to_owned()))
        });
        let pairs: Option<Vec<_>> = pairs.collect();
        pairs
            .map(Selector)
            .ok_or_else(|| "is no list of labels: NAME=VALUE, joined by commas, is right".to_owned())
    }

    /// Each of them.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().cloned()
    }

    /// The first of them that is not among `labels`.
    pub(crate) fn missing(&self, labels: &BTreeMap<String, String>) -> Option<(&str, &str)> {
        let missing = self.0.iter().find(|(name, value)| labels.get(name) != Some(value));
        missing.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
The control plane says what each resource would be (nothing is changed), and that is compared with what is there. What the \
control plane itself fills in is left out.

Exit codes: 0 no difference; 1 differences; 2 it is not known, because something is wrong.")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Namespace of resources that name none (and the only one that resources may name); otherwise: default
    #[arg(short, long, env = "WEIRCTL_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
}

/// One resource.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Which kind: httproute, httproutes or HTTPRoute; short: svc, ns, eps, bp, wl
    #[arg(value_parser = kind)]
    pub(crate) kind: Kind,
    /// Its name
    #[arg(value_parser = name)]
    pub(crate) name: String,
    /// Its namespace; otherwise: default
    #[arg(short, long, env = "WEIRCTL_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
}

impl One {
    /// The resource.
    pub(crate) fn key(&self) -> Key {
        Key {
            kind: self.kind,
            namespace: namespace_of(self.kind, self.namespace.as_deref()),
            name: self.name.clone(),
        }
    }
}

/// The namespace of a resource for which this one was given; empty for kinds of the whole mesh.
pub(crate) fn namespace_of(kind: Kind, given: Option<&str>) -> String {
    match kind.scope() {
        Scope::Cluster => String::new(),
        Scope::Namespaced => given.unwrap_or("default").to_owned(),
    }
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) one: One,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table)]
    pub(crate) output: ViewFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The editor is what WEIR_EDITOR, VISUAL or EDITOR says, otherwise vi. What is wrong with what was saved comes back as comments, \
and so does what somebody else changed meanwhile. Saved unchanged, or emptied, the resource stays as it was.")]
pub(crate) struct EditArgs {
    #[command(flatten)]
    pub(crate) one: One,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    pub(crate) one: One,
    /// What for: in-force, deleted, or condition=NAME or condition=NAME=STATUS (otherwise True)
    #[arg(long = "for", value_parser = For::parse, default_value = "in-force", value_name = "WHAT")]
    pub(crate) until: For,
    /// How long: 1h30m, 10s, 500ms
    #[arg(long, default_value = "60s", value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// On every connected proxy that uses it.
    InForce,
    /// It is not there any more.
    Deleted,
    /// Each condition of this name has this status, for the generation that is there now.
    Condition { name: String, status: String },
}

impl For {
    fn parse(text: &str) -> Result<For, String> {
        let word =
            |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "./-_".contains(c));
        match text {
            "in-force" => return Ok(For::InForce),
            "deleted" | "delete" => return Ok(For::Deleted),
            _ => {}
        }
        let named = text
            .strip_prefix("condition=")
            .map(|rest| rest.split_once('=').unwrap_or((rest, "True")));
        match named {
            Some((name, status)) if word(name) && word(status) => Ok(For::Condition {
                name: name.to_owned(),
                status: status.to_owned(),
            }),
            Some(_) | None => Err(
                "is nothing to wait for: in-force, deleted, condition=NAME and condition=NAME=STATUS are".to_owned(),
            ),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Looked at: whether the control plane answers and is ready, whether versions are alike, whether clocks agree to 5 s, whether each \
proxy is connected, has confirmed what it was sent and rejected nothing, whether each workload is confirmed and its app takes \
connections, and what conditions resources have. What is only worth knowing is a note and no failure.

Exit codes: 0 all is well; 1 something is wrong; 2 wrong usage.")]
pub(crate) struct CheckArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table)]
    pub(crate) output: ViewFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  weirctl completion bash > /etc/bash_completion.d/weirctl
  weirctl completion zsh > \"${fpath[1]}/_weirctl\"
  weirctl completion fish > ~/.config/fish/completions/weirctl.fish")]
pub(crate) struct CompletionArgs {
    /// Which shell
    pub(crate) shell: Shells,
}

/// Shells that can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shells {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder to write to; made if it is not there
    pub(crate) folder: PathBuf,
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
    #[arg(short, long, env = "WEIRCTL_NAMESPACE", default_value = "default", value_parser = namespace)]
    pub(crate) namespace: String,
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    /// Those with these labels, as kubectl has it: app=portal, app!=portal, app, !app
    #[arg(short = 'l', long, conflicts_with = "name", value_parser = selector, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
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
    /// The same with more columns
    Wide,
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
    #[arg(value_parser = kind, required_unless_present = "files")]
    pub(crate) kind: Option<Kind>,
    /// Their names
    #[arg(value_parser = name, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) files: Files,
    /// Those of the kind with these labels, as kubectl has it: app=portal, app!=portal, app, !app
    #[arg(
        short = 'l',
        long,
        requires = "kind",
        conflicts_with = "names",
        value_parser = selector,
        value_name = "SELECTOR"
    )]
    pub(crate) selector: Option<String>,
    /// Their namespace; otherwise: default
    #[arg(short, long, env = "WEIRCTL_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
    /// What is not there is no failure
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Let the control plane check everything, change nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Wait until they are gone
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: 1h30m, 10s, 500ms
    #[arg(long, requires = "wait", default_value = "60s", value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) timeout: Duration,
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
    /// What the app would call: http://NAME[:PORT][/PATH][?QUERY], where http:// may be left out; or tcp://NAME:PORT
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

#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    pub(crate) command: CaCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Shows roots and intermediate, with fingerprints and how many days they have left, and how a rotation goes on
    Status(CaStatusArgs),
    /// Changes the root, or the intermediate, while the mesh runs
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Changes the root and the intermediate in three steps, without that a request fails. Trust: every connected proxy is told of \
the new root, and shows by a handshake that it trusts it. Sign: the new root signs, proxies renew their certificates, and \
those below the old root end. Forget: the old root is no longer trusted, and its key is removed. A proxy that is behind \
holds a step up: `weirctl ca status` says which, why, and what to do. weir-control goes on with it by itself, also after a \
restart. Only on the control plane's own host.

  weirctl ca rotate --wait
  weirctl ca rotate --intermediate
  weirctl ca rotate --abort")]
pub(crate) struct RotateArgs {
    /// Only the intermediate, below the same root; by itself that is done when a third of its time is left
    #[arg(long, conflicts_with_all = ["abort", "despite", "wait"])]
    pub(crate) intermediate: bool,
    /// Go back to the old root: as long as the step is Trust
    #[arg(long, conflicts_with_all = ["despite", "wait"])]
    pub(crate) abort: bool,
    /// Don't wait for this proxy, as NAMESPACE/WORKLOAD: it has the new root by other ways, or is given up; also for a
    /// rotation that is under way. Repeatable
    #[arg(long, value_name = "NAMESPACE/WORKLOAD")]
    pub(crate) despite: Vec<String>,
    /// Wait until it is done, also for one that is under way: about as long as certificates are good
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: 1h30m, 10s, 500ms
    #[arg(long, requires = "wait", default_value = "48h", value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CaStatusArgs {
    /// How to print it; as JSON it has the certificates as well
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table)]
    pub(crate) output: ViewFormat,
}

/// Whom an identity is for.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The namespace
    #[arg(short, long, env = "WEIRCTL_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: String,
    /// The account: workloads that may do the same share one
    #[arg(long, value_parser = account)]
    pub(crate) account: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Writes key.pem, cert.pem (the certificate and the intermediate) and ca.pem (the roots) into the folder, and replaces what is \
there. The key is made here and stays here. Only on the control plane's own host: whoever can ask for a certificate can be \
anybody.

  weirctl cert --namespace citizen --account portal --out portal")]
pub(crate) struct CertArgs {
    #[command(flatten)]
    pub(crate) who: Who,
    /// The folder for the files; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How long it is good for, 1m to 720h; otherwise as certificates of workloads are
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a join token and prints it
    Create(CreateTokenArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --out the token is all that is printed to standard output. Whoever has it can join as this account, so keep it as a \
password, and give it to weir-proxy with --token-file. Only on the control plane's own host.

  weirctl token create --namespace citizen --account portal --labels app=portal --out portal.token")]
pub(crate) struct CreateTokenArgs {
    #[command(flatten)]
    pub(crate) who: Who,
    /// The labels of its workloads, by which Services select them: NAME=VALUE,...
    #[arg(short, long, value_parser = Selector::parse, value_name = "LABELS")]
    pub(crate) labels: Option<Selector>,
    /// How long it may be used, 1m to 720h
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(crate) ttl: String,
    /// How many proxies may join with it; one that starts anew without the key that it had counts again
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) uses: u32,
    /// Writes it to this file, which its owner alone can read; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = ViewFormat::Table, conflicts_with = "out")]
    pub(crate) output: ViewFormat,
}

fn account(text: &str) -> Result<String, String> {
    if names::is_label(text) {
        return Ok(text.to_owned());
    }
    Err("is no account: 1 to 63 characters of a-z, 0-9 and '-' are right".to_owned())
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

/// What it means, the control plane says; but one that is left empty by a script must not mean everything.
fn selector(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty and would take everything; app=portal, app!=portal, app and !app are right".to_owned());
    }
    Ok(text.to_owned())
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
