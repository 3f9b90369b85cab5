use proptest::prelude::*;
use serde_json::json;
use weir_api::Object;

use super::*;

/// A field of the wire: a number, or bytes.
fn number(field: u32, number: u64) -> Vec<u8> {
    [varint(u64::from(field) << 3), varint(number)].concat()
}

fn bytes(field: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u64::try_from(bytes.len()).expect("a length");
    [varint(u64::from(field) << 3 | 2), varint(length), bytes.to_vec()].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut written = Vec::new();
    while number >= 0x80 {
        written.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    written.push(u8::try_from(number).expect("seven bits"));
    written
}

fn entry(field: u32, key: &str, value: &str) -> Vec<u8> {
    bytes(field, [bytes(1, key), bytes(2, value)].concat())
}

fn sent(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let named = [bytes(1, api_version), bytes(2, kind)].concat();
    [
        MAGIC.to_vec(),
        bytes(1, named),
        bytes(2, raw),
        bytes(3, ""),
        bytes(4, ""),
    ]
    .concat()
}

/// What client-go writes of an `ObjectMeta` with a name: each field without a pointer.
fn metadata(name: &str) -> Vec<u8> {
    [
        bytes(1, name),
        bytes(2, ""),
        bytes(3, ""),
        bytes(4, ""),
        bytes(5, ""),
        bytes(6, ""),
        number(7, 0),
        bytes(8, ""),
    ]
    .concat()
}

#[track_caller]
fn check(api_version: &str, kind: &str, raw: &[u8], expect: &Value) {
    let mut expect = expect.clone();
    expect["apiVersion"] = api_version.into();
    expect["kind"] = kind.into();
    assert_eq!(read(&sent(api_version, kind, raw)), Ok(expect));
}

#[track_caller]
fn refused(body: &[u8], expect: &str) {
    assert_eq!(read(body).expect_err(expect).to_string(), expect);
}

#[test]
fn a_service_reads_as_its_json_would() {
    let port = [
        bytes(1, "http"),
        bytes(2, "TCP"),
        number(3, 80),
        bytes(4, [number(1, 1), number(2, 0), bytes(3, "web")].concat()),
        number(5, 0),
        bytes(6, "grpc"),
    ];
    let by_number = [
        bytes(1, ""),
        bytes(2, ""),
        number(3, 443),
        bytes(4, [number(1, 0), number(2, 8443), bytes(3, "")].concat()),
    ];
    let unset = [
        number(3, 90),
        bytes(4, [number(1, 0), number(2, 0), bytes(3, "")].concat()),
    ];
    let spec = [
        bytes(1, port.concat()),
        bytes(1, by_number.concat()),
        bytes(1, unset.concat()),
        entry(2, "app", "code"),
        entry(2, "empty", ""),
        bytes(3, "None"),
        bytes(4, "ClusterIP"),
        bytes(7, ""),
        number(12, 0),
        number(13, 0),
        bytes(17, "SingleStack"),
        bytes(18, "None"),
        bytes(19, "IPv4"),
        bytes(22, ""),
    ];
    let raw = [
        bytes(1, [metadata("code"), entry(11, "team", "a")].concat()),
        bytes(2, spec.concat()),
        bytes(3, bytes(1, "")),
    ];
    let expect = json!({
        "metadata": {"name": "code", "labels": {"team": "a"}},
        "spec": {
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "appProtocol": "grpc"},
                {"port": 443, "targetPort": 8443},
                {"port": 90},
            ],
            "selector": {"app": "code", "empty": ""},
            "clusterIP": "None",
            "type": "ClusterIP",
            "ipFamilyPolicy": "SingleStack",
            "clusterIPs": ["None"],
            "ipFamilies": ["IPv4"],
            // A pointer to nothing said.
            "internalTrafficPolicy": "",
        },
        "status": {},
    });
    check("v1", "Service", &raw.concat(), &expect);
}

#[test]
fn other_kinds_read_as_their_json_would() {
    let time = |seconds, nanos| bytes(8, [number(1, seconds), number(2, nanos)].concat());
    let meta = [
        bytes(1, "citizen"),
        bytes(3, "other"),
        number(7, 3),
        time(1_767_225_600, 0),
        number(10, 0),
        bytes(13, bytes(1, "Pod")),
        bytes(14, "a"),
        bytes(17, bytes(1, "kubectl")),
    ];
    let meta = json!({
        "metadata": {
            "name": "citizen",
            "namespace": "other",
            "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            // Refused afterwards, by name.
            "deletionGracePeriodSeconds": 0,
            "ownerReferences": [{}],
            "finalizers": ["a"],
            "managedFields": [{}],
        },
        "spec": {"finalizers": ["kubernetes"]},
        "sent": bytes(1, meta.concat()),
    });
    let raw = [
        serde_json::from_value::<Vec<u8>>(meta["sent"].clone()).expect("bytes"),
        bytes(2, bytes(1, "kubernetes")),
    ];
    let mut expect = meta;
    expect.as_object_mut().expect("an object").remove("sent");
    check("v1", "Namespace", &raw.concat(), &expect);

    let endpoint = [
        bytes(1, "10.0.0.1"),
        bytes(2, [number(1, 0), number(3, 1)].concat()),
        bytes(4, [bytes(1, "Pod"), bytes(3, "p")].concat()),
        bytes(7, "a"),
        bytes(8, bytes(1, bytes(1, "a"))),
    ];
    let port = [bytes(1, ""), bytes(2, "TCP"), number(3, 8080)];
    let raw = [
        bytes(1, metadata("code-1")),
        bytes(2, endpoint.concat()),
        bytes(3, port.concat()),
        bytes(4, "IPv4"),
    ];
    let expect = json!({
        "metadata": {"name": "code-1"},
        "endpoints": [{
            "addresses": ["10.0.0.1"],
            // A pointer: not ready is no zero.
            "conditions": {"ready": false, "terminating": true},
            "targetRef": {"kind": "Pod", "name": "p"},
            "zone": "a",
            "hints": {"forZones": [{"name": "a"}]},
        }],
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "addressType": "IPv4",
    });
    check("discovery.k8s.io/v1", "EndpointSlice", &raw.concat(), &expect);

    let raw = [
        bytes(1, metadata("roots")),
        entry(2, "ca.crt", "text"),
        bytes(3, [bytes(1, "raw"), bytes(2, [0, 0xff])].concat()),
        number(4, 0),
    ];
    let expect = json!({
        "metadata": {"name": "roots"},
        "data": {"ca.crt": "text"},
        "binaryData": {"raw": "AP8="},
        "immutable": false,
    });
    check("v1", "ConfigMap", &raw.concat(), &expect);

    let raw = [
        number(1, 0),
        bytes(2, bytes(2, "7")),
        bytes(4, "Background"),
        bytes(5, "All"),
    ];
    let expect = json!({
        "gracePeriodSeconds": 0,
        "preconditions": {"resourceVersion": "7"},
        "propagationPolicy": "Background",
        "dryRun": ["All"],
    });
    check("meta.k8s.io/v1", "DeleteOptions", &raw.concat(), &expect);
}

#[test]
fn what_has_no_one_reading_is_refused_with_its_place() {
    let namespace = |raw: &[u8]| sent("v1", "Namespace", raw);
    let metadata = |meta: &[u8]| namespace(&bytes(1, meta));
    let service = |port: &[u8]| sent("v1", "Service", &bytes(2, bytes(1, port)));
    let json = [MAGIC, &bytes(4, "application/json")].concat();
    for (body, expect) in [
        (b"{}".to_vec(), "it does not begin with \"k8s\" and a zero byte"),
        (
            MAGIC.to_vec(),
            "it is of kind \"\" in \"\", which does not come in protobuf; Namespace, Service, ConfigMap, EndpointSlice, DeleteOptions do",
        ),
        (
            sent("v1", "Pod", &[]),
            "it is of kind \"Pod\" in \"v1\", which does not come in protobuf; Namespace, Service, ConfigMap, EndpointSlice, DeleteOptions do",
        ),
        (
            json,
            "it holds \"application/json\"; application/vnd.kubernetes.protobuf is right",
        ),
        ([MAGIC, &number(9, 1)].concat(), "it has a field 9 in its envelope"),
        (
            [MAGIC, &bytes(1, bytes(3, ""))].concat(),
            "it has a field 3 in its typeMeta",
        ),
        ([MAGIC, &number(2, 1)].concat(), "it is a number, 1"),
        (namespace(&bytes(9, "")), "it has a field 9, which Namespace has not"),
        (
            metadata(&number(15, 1)),
            "metadata has a field 15, which ObjectMeta has not",
        ),
        (
            metadata(&[bytes(1, "a"), bytes(1, "b")].concat()),
            "metadata.name is given twice",
        ),
        (
            namespace(&[bytes(1, ""), bytes(1, "")].concat()),
            "metadata is given twice",
        ),
        (
            metadata(&[entry(11, "a", "1"), entry(11, "a", "2")].concat()),
            "metadata.labels has \"a\" twice",
        ),
        (
            metadata(&bytes(11, bytes(3, ""))),
            "metadata.labels has a field 3, which an entry has not",
        ),
        (
            metadata(&bytes(1, [0xff])),
            "metadata.name is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0",
        ),
        (metadata(&number(1, 7)), "metadata.name is a number, 7"),
        (metadata(&bytes(7, "7")), "metadata.generation is no number"),
        (
            metadata(&bytes(8, number(1, u64::MAX >> 1))),
            "metadata.creationTimestamp is 9223372036854775807 s and 0 ns after 1970, which is no time",
        ),
        (
            service(&bytes(4, number(1, 2))),
            "spec.ports[0].targetPort is of type 2; 0 or 1 is right",
        ),
        (
            sent("v1", "Service", &bytes(2, number(13, 2))),
            "spec.publishNotReadyAddresses is 2; 0 or 1 is right for a flag",
        ),
        (namespace(&[0x0a]), "it ends within a number"),
        (namespace(&[0x0a, 5, 1]), "it ends within its field 1"),
        (namespace(&[0x0d, 0, 0, 0, 0]), "it has a field 1 of wire type 5"),
        (namespace(&[0xff; 12]), "it has a number of more than 64 bits"),
        (
            namespace(&varint(u64::MAX << 3)),
            "it has a field with too large a number",
        ),
    ] {
        refused(&body, expect);
    }
}

#[test]
fn negative_numbers_stay_negative() {
    // Of 32 bits too they come in ten bytes.
    let port = number(3, (-1_i64).cast_unsigned());
    let expect = json!({"spec": {"ports": [{"port": -1}]}});
    check("v1", "Service", &bytes(2, bytes(1, port)), &expect);
}

#[test]
fn a_table_has_each_number_once() {
    for message in [
        &OBJECT_META,
        &NAMESPACE,
        &SERVICE,
        &SERVICE_SPEC,
        &SERVICE_PORT,
        &CONFIG_MAP,
        &ENDPOINT_SLICE,
        &ENDPOINT,
        &ENDPOINT_CONDITIONS,
        &ENDPOINT_HINTS,
        &ENDPOINT_PORT,
        &OBJECT_REFERENCE,
        &DELETE_OPTIONS,
        &PRECONDITIONS,
    ] {
        let numbers: BTreeSet<u32> = message.fields.iter().map(|field| field.number).collect();
        let names: BTreeSet<&str> = message.fields.iter().map(|field| field.name).collect();
        assert_eq!(numbers.len(), message.fields.len(), "{}", message.name);
        assert_eq!(names.len(), message.fields.len(), "{}", message.name);
    }
}

proptest! {
    /// Whatever comes, it is read or refused, and what is read can be asked whether it is an object.
    #[test]
    fn no_bytes_make_it_panic(mut raw in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), byte: u8) {
        let _ = read(&raw);
        let _ = read(&sent("v1", "Service", &raw));
        let service = [bytes(1, metadata("code")), bytes(2, bytes(1, [bytes(1, "http"), number(3, 80)].concat()))].concat();
        let mut changed = sent("v1", "Service", &service);
        let at = at % changed.len();
        changed[at] = byte;
        if let Ok(value) = read(&changed) {
            let _ = Object::parse(value);
        }
        raw.truncate(at);
        let _ = read(&[MAGIC.to_vec(), raw].concat());
    }
}
