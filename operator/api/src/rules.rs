//! What the API server checks of texts in the resources, by CEL rules whose messages say what to write instead.
//!
//! Functions that Kubernetes 1.29 does not know yet (`cidr`, `format`) are not used.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};

/// A number from 0 to 255.
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
/// A DNS name, an IPv4 address, or an IPv6 address in brackets; its parts are checked by the operator.
const HOST: &str = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])";
/// A port, if there is one.
const PORT: &str = "(:[1-9][0-9]{0,4})?";

/// A rule that holds where the text matches this expression, or one of several. No expression has a quote or a space in it.
fn matches(expressions: &[&str], message: &str) -> Rule {
    let any: Vec<String> = expressions.iter().map(|expression| format!("self.matches(r'{expression}')")).collect();
    Rule::new(any.join(" || ")).message(message)
}

/// Names of Secrets, and of all else whose name is a DNS subdomain.
pub(crate) fn object_name() -> Rule {
    let message = "not a name: expected lower-case letters, digits, '-' and '.', a letter or digit first and last";
    matches(&["^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"], message)
}

/// Names that are one DNS label.
pub(crate) fn label() -> Rule {
    matches(&["^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"], "expected lower-case letters, digits and '-', a letter or digit first and last")
}

/// Seconds or minutes.
pub(crate) fn duration() -> Rule {
    matches(&["^[1-9][0-9]{0,2}(s|m)$"], "expected seconds or minutes, from 1s to 999m, such as 10s")
}

/// A WireGuard key.
pub(crate) fn public_key() -> Rule {
    matches(&["^[A-Za-z0-9+/]{43}=$"], "expected a WireGuard public key: 44 characters of base64, as wg show prints it")
}

/// One of these words.
pub(crate) fn one_of(words: &[&str]) -> Rule {
    Rule::new(format!("self in ['{}']", words.join("', '"))).message(&*format!("expected {}", words.join(" or ")))
}

/// An IPv4 network of which peers may get addresses.
fn ipv4_network() -> String {
    format!(r"^({OCTET}\.){{3}}{OCTET}/([89]|1[0-9]|2[0-9])$")
}

/// See [`ipv4_network`].
pub(crate) fn pool() -> Rule {
    matches(&[&ipv4_network()], "expected an IPv4 network from /8 to /29, such as 100.80.0.0/16")
}

/// Of a pool that is one: no bits behind the prefix.
pub(crate) fn pool_is_a_network() -> Rule {
    let (length, octet) = ("int(self.split('/')[1])", "int(self.split('/')[0].split('.')[i])");
    let size = format!("[256, 128, 64, 32, 16, 8, 4, 2, 1][{length} > 8 * i ? {length} - 8 * i : 0]");
    let rule = format!("!self.matches(r'{}') || [1, 2, 3].all(i, {length} >= 8 * i + 8 || {octet} % {size} == 0)", ipv4_network());
    Rule::new(rule).message("the address has bits behind the prefix: write the network's first address, such as 100.80.0.0/16")
}

/// Of a pool that is one: addresses that hosts can have.
pub(crate) fn pool_is_unicast() -> Rule {
    Rule::new(r"!self.matches(r'^(0|127|22[4-9]|2[345][0-9])\.')")
        .message("no host has addresses of 0.0.0.0/8, of 127.0.0.0/8, or from 224.0.0.0 on: take another network")
}

/// A list of texts of which each is checked by itself, so that an error names the one.
fn list(kind: &str, items: u32, length: u32, rule: &Rule) -> Schema {
    json_schema!({
        "type": "array", "maxItems": items, "x-kubernetes-list-type": kind,
        "items": { "type": "string", "maxLength": length, "x-kubernetes-validations": [rule] },
    })
}

/// Servers run elsewhere.
pub(crate) fn servers(_: &mut SchemaGenerator) -> Schema {
    let server = format!(r"^([A-Za-z0-9.:_\[\]-]{{1,128}}=)?([tT][uU][rR][nN][sS]?:)?{HOST}{PORT}(\?[A-Za-z0-9_=&-]*)?$");
    let message = "expected [id=]host[:port], turn:host[:port] or turns:host[:port], an IPv6 address in brackets";
    list("set", 8, 300, &matches(&[&server], message))
}

/// Addresses before the servers.
pub(crate) fn external_addresses(_: &mut SchemaGenerator) -> Schema {
    let (named, bare) = (format!("^{HOST}{PORT}$"), "^[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*$");
    list("atomic", 8, 260, &matches(&[&named, bare], "expected host or host:port, an IPv6 address with a port in brackets"))
}

/// Networks of either kind.
pub(crate) fn networks(_: &mut SchemaGenerator) -> Schema {
    let (four, six) =
        (format!(r"^({OCTET}\.){{3}}{OCTET}/(3[0-2]|[12]?[0-9])$"), "^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$");
    list("set", 16, 43, &matches(&[&four, six], "expected a network such as 10.8.0.0/16 or fd00:8::/32"))
}

/// Amounts of resources, as in a container.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 8,
        "additionalProperties": {
            "description": "An amount, such as 100m (CPU) or 64Mi (memory).",
            "x-kubernetes-int-or-string": true,
            "x-kubernetes-validations": [
                Rule::new("type(self) == int ? self >= 0 : (isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0)")
                    .message("expected an amount such as 100m (CPU) or 64Mi (memory)")
            ],
        },
    })
}
