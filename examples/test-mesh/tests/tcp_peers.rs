//! Databases of others behind the mesh, each asked by its own client through two sidecars with mutual TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use weir_policy::model::AppProtocol;
use weir_proxy::config::TcpListen;
use weir_test_mesh::{Finished, Member, MemberSettings, Script, ScriptedApp, TestMesh, finish, free_port, until};

/// A server of others that runs; ended when dropped.
struct Server {
    port: u16,
    _process: Child,
    _data: TempDir,
}

impl Server {
    async fn start(mut command: Command, port: u16, data: TempDir) -> Server {
        let name = command.as_std().get_program().to_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let process = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `./dev setup` brings it", name.display()));
        until(&format!("{} to take connections", name.display()), || async {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()
        })
        .await;
        Server {
            port,
            _process: process,
            _data: data,
        }
    }

    /// Behind a sidecar, as a Service of this name, and beside it an app that reaches it.
    async fn in_mesh(&self, mesh: &TestMesh, name: &'static str) -> [Member; 2] {
        let port = self.port.try_into().expect("a port");
        let settings = MemberSettings {
            protocol: AppProtocol::Tcp,
            proxy: Box::new(move |config| config.apps[0].app_port = port),
            ..MemberSettings::default()
        };
        mesh.apply_service(name, name, AppProtocol::Tcp).await;
        let nobody = ScriptedApp::start(Script::answer(200, "")).await;
        let server = mesh.sidecar(name, name, nobody, settings).await;
        let settings = MemberSettings {
            proxy: Box::new(move |config| {
                config.listens.push(TcpListen {
                    address: SocketAddr::from(([127, 0, 0, 1], 0)),
                    service: format!("{name}.default.svc.cluster.local:80").parse().expect("a name"),
                });
            }),
            ..MemberSettings::default()
        };
        let client = mesh.service_with("client", Script::answer(200, ""), settings).await;
        [server, client]
    }
}

/// A client of theirs, at the port of the app's own sidecar.
async fn ask(program: &str, args: &[&str], of: &Member, input: &[u8]) -> Finished {
    ask_at("-p", program, args, of, input).await
}

/// The same, of a client that takes its port by this flag.
async fn ask_at(port_flag: &str, program: &str, args: &[&str], of: &Member, input: &[u8]) -> Finished {
    let mut command = Command::new(program);
    let port = of.addresses().listens[0].port().to_string();
    // What an operator's own files say of other servers has no place here, and MariaDB's client takes this flag first.
    if program == MARIADB {
        command.arg("--no-defaults");
    }
    command.args(["-h", "127.0.0.1", port_flag, port.as_str()]).args(args);
    let finished = finish(command, input).await;
    assert!(finished.success, "{program} {args:?}: {finished:?}");
    finished
}

/// All that was carried went by mutual TLS, and ended well.
async fn went_by_mutual_tls(server: Member, client: Member) {
    for (member, peer) in [(server, "client"), (client, "server")] {
        let (_, lines) = member.stop().await;
        let tcp: Vec<_> = lines.iter().filter(|line| line["network.transport"] == "tcp").collect();
        assert!(!tcp.is_empty(), "toward the {peer}");
        for line in tcp {
            assert_eq!(line["weir.flag"], "none", "{line}");
            assert!(line["weir.peer.identity"].is_string(), "{line}");
        }
    }
}

#[tokio::test]
async fn redis() {
    let port = free_port();
    let data = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.arg("--dir").arg(data.path());
    let redis = Server::start(command, port, data).await;
    let mesh = TestMesh::secured().await;
    let [server, client] = redis.in_mesh(&mesh, "redis").await;
    let set = ask("redis-cli", &["set", "city", "杭州"], &client, b"").await;
    assert_eq!(set.stdout.trim(), "OK");
    let get = ask("redis-cli", &["get", "city"], &client, b"").await;
    assert_eq!(get.stdout.trim(), "杭州");
    // Ten thousand commands written ahead of their answers.
    let commands: String = (0..10_000)
        .map(|number| format!("SET key:{number} {number}\r\n"))
        .collect();
    let piped = ask("redis-cli", &["--pipe"], &client, commands.as_bytes()).await;
    assert!(piped.stdout.contains("errors: 0, replies: 10000"), "{piped:?}");
    let large = "x".repeat(8 * 1024 * 1024);
    ask("redis-cli", &["-x", "set", "large"], &client, large.as_bytes()).await;
    let back = ask("redis-cli", &["get", "large"], &client, b"").await;
    assert!(back.stdout.trim_end() == large, "{} bytes", back.stdout.len());
    went_by_mutual_tls(server, client).await;
}

/// Where Debian has what only a server's host needs.
fn of_postgresql(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let versions = versions.unwrap_or_else(|error| panic!("postgresql: {error}; `./dev setup` brings it"));
    let mut versions: Vec<PathBuf> = versions.flatten().map(|entry| entry.path()).collect();
    versions.sort();
    let newest = versions.last().expect("`./dev setup` brings postgresql");
    newest.join("bin").join(program)
}

/// A program that refuses to run as root: as this account of its package, where we are root.
fn not_as_root(account: &str, program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").expect("Linux' /proc").uid() == 0;
    if !is_root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            &format!("--reuid={account}"),
            &format!("--regid={account}"),
            "--clear-groups",
        ])
        .arg(program);
    command
}

/// A folder for the files of a server that runs as this account.
async fn folder_of(account: &str) -> TempDir {
    let data = tempfile::tempdir().expect("a folder");
    if std::fs::metadata(data.path()).expect("it is there").uid() == 0 {
        let mut chown = Command::new("chown");
        chown.arg(account).arg(data.path());
        assert!(finish(chown, b"").await.success);
    }
    data
}

#[tokio::test]
async fn postgresql() {
    let port = free_port();
    let data = folder_of("postgres").await;
    let mut initdb = not_as_root("postgres", &of_postgresql("initdb"));
    initdb
        .arg("-D")
        .arg(data.path())
        .args(["-U", "postgres", "--auth=trust", "--no-sync"]);
    let made = finish(initdb, b"").await;
    assert!(made.success, "{made:?}");
    let mut command = not_as_root("postgres", &of_postgresql("postgres"));
    command.arg("-D").arg(data.path()).arg("-k").arg(data.path());
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-c", "fsync=off"])
        .stderr(Stdio::null());
    let postgres = Server::start(command, port, data).await;
    let mesh = TestMesh::secured().await;
    let [server, client] = postgres.in_mesh(&mesh, "postgres").await;
    until("the server to have started", || async {
        let port = client.addresses().listens[0].port().to_string();
        let mut ready = Command::new("pg_isready");
        ready.args(["-h", "127.0.0.1", "-p", &port]);
        finish(ready, b"").await.success.then_some(())
    })
    .await;
    let query = async |sql: &str| {
        ask("psql", &["-U", "postgres", "-At", "-c", sql], &client, b"")
            .await
            .stdout
    };
    query("create table people (id integer primary key, name text)").await;
    query("insert into people select id, repeat('人', 100) from generate_series(1, 50000) id").await;
    assert_eq!(
        query("select count(*), sum(length(name)) from people").await.trim(),
        "50000|5000000"
    );
    // Fifteen megabytes to the client, and back.
    let copy = query("copy people to stdout").await;
    assert_eq!(copy.lines().count(), 50_000);
    query("truncate people").await;
    let args = ["-U", "postgres", "-c", "copy people from stdin"];
    let back = ask("psql", &args, &client, copy.as_bytes()).await;
    assert_eq!(back.stdout.trim(), "COPY 50000");
    let slow = query("select pg_sleep(1), 'awake'").await;
    assert_eq!(slow.trim(), "|awake");
    went_by_mutual_tls(server, client).await;
}

/// MariaDB, which speaks MySQL's protocol: the server speaks first, so that nothing can be told of a connection by its
/// first bytes before the endpoint is chosen.
#[tokio::test]
async fn mysql() {
    let port = free_port();
    let data = folder_of("mysql").await;
    let mut install = not_as_root("mysql", Path::new("mariadb-install-db"));
    install
        .args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ])
        .arg(format!("--datadir={}", data.path().display()));
    let made = finish(install, b"").await;
    assert!(made.success, "{made:?}");
    // Debian keeps it where only root looks.
    let mut command = not_as_root("mysql", Path::new("/usr/sbin/mariadbd"));
    command
        .args([
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--skip-log-bin",
            "--local-infile=1",
        ])
        .arg(format!("--port={port}"))
        .arg(format!("--datadir={}", data.path().display()))
        .arg(format!("--socket={}/socket", data.path().display()))
        .stderr(Stdio::null());
    let server = Server::start(command, port, data).await;
    let mesh = TestMesh::secured().await;
    let [server, client] = server.in_mesh(&mesh, "mysql").await;
    let query = async |sql: &str, input: &[u8]| {
        let args = [
            "-u",
            "root",
            "-N",
            "--local-infile=1",
            "--default-character-set=utf8mb4",
            "-e",
            sql,
        ];
        ask_at("-P", MARIADB, &args, &client, input).await.stdout
    };
    query("create database city character set utf8mb4", b"").await;
    query("create table city.people (id integer primary key, name text)", b"").await;
    let fill = "use city; insert into people select seq, repeat('人', 100) from seq_1_to_50000";
    query(fill, b"").await;
    let count = "select count(*), sum(char_length(name)) from city.people";
    assert_eq!(query(count, b"").await.trim(), "50000\t5000000");
    // Fifteen megabytes to the client, and back.
    let rows = query("select * from city.people", b"").await;
    assert_eq!(rows.lines().count(), 50_000);
    query("truncate city.people", b"").await;
    let load = "load data local infile '/dev/stdin' into table city.people character set utf8mb4";
    query(load, rows.as_bytes()).await;
    assert_eq!(query(count, b"").await.trim(), "50000\t5000000");
    assert_eq!(query("select sleep(1), 'awake'", b"").await.trim(), "0\tawake");
    went_by_mutual_tls(server, client).await;
}

const MARIADB: &str = "mariadb";
