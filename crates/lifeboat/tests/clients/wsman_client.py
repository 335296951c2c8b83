"""A WS-Management client made from the protocol's rules (DSP0226, DSP0227 and what Windows' clients add to them), for tests.

It uses nothing but Python's standard library, above all nothing of the server's. It is strict: whatever the rules say of a
reply is checked, and the prefixes that clients with fixed paths need are checked too. It is no library for other purposes.
"""

import base64
import http.client
import io
import ssl
import uuid
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

S = "http://www.w3.org/2003/05/soap-envelope"
A = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
W = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
N = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
X = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
B = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/common"
F = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
ID = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

ANONYMOUS = A + "/role/anonymous"
MUTUAL = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
DETAIL = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
SELECTORS = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter"
ASSOCIATIONS = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter"
FAULT_ACTIONS = (
    A + "/fault",
    N + "/fault",
    "http://schemas.xmlsoap.org/ws/2004/08/eventing/fault",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault",
)


class Wrong(Exception):
    """The server broke a rule of the protocol."""


class Fault(Exception):
    """A fault that the server sent, in good form."""

    def __init__(self, code, subcode, detail, reason, message, status):
        super().__init__(f"{subcode} ({detail or 'no detail'}): {reason}")
        self.code = code
        self.subcode = subcode
        self.detail = detail
        self.reason = reason
        self.message = message
        self.status = status


def rule(holds, words):
    if not holds:
        raise Wrong(words)


def local(element):
    return element.tag.rpartition("}")[2]


def space(element):
    return element.tag.rpartition("}")[0].lstrip("{")


def q(namespace, name):
    return f"{{{namespace}}}{name}"


class Epr:
    """An endpoint reference: a resource URI and selectors, which may be references themselves."""

    def __init__(self, uri, selectors):
        self.uri = uri
        self.selectors = dict(selectors)

    @property
    def cls(self):
        return self.uri.rpartition("/")[2]

    def xml(self):
        """What stands in a parameter or selector that is a reference."""
        return (
            f"<a:Address>{ANONYMOUS}</a:Address><a:ReferenceParameters>"
            f"<w:ResourceURI>{escape(self.uri)}</w:ResourceURI>{selector_set(self.selectors)}</a:ReferenceParameters>"
        )

    @staticmethod
    def read(element):
        """Reads the parts of a reference out of the element that holds them."""
        rule(element.find(q(A, "Address")) is not None, f"{local(element)}: a reference without a:Address")
        parameters = element.find(q(A, "ReferenceParameters"))
        rule(parameters is not None, f"{local(element)}: a reference without a:ReferenceParameters")
        uri = parameters.find(q(W, "ResourceURI"))
        rule(uri is not None and uri.text, f"{local(element)}: a reference without w:ResourceURI")
        selectors = {}
        for selector in parameters.iterfind(f"{q(W, 'SelectorSet')}/{q(W, 'Selector')}"):
            inner = selector.find(q(A, "EndpointReference"))
            name = selector.get("Name")
            rule(name and name not in selectors, f"{local(element)}: selector {name} is nameless or there twice")
            selectors[name] = Epr.read(inner) if inner is not None else selector.text or ""
        return Epr(uri.text, selectors)

    def __eq__(self, other):
        def folded(epr):
            pairs = []
            for name, value in epr.selectors.items():
                pairs.append((name.lower(), folded(value) if isinstance(value, Epr) else value.lower()))
            return epr.uri.lower(), sorted(pairs, key=str)

        return isinstance(other, Epr) and folded(self) == folded(other)

    def __repr__(self):
        return f"{self.cls}{self.selectors}"


def selector_set(selectors):
    if not selectors:
        return ""
    items = []
    for name, value in selectors.items():
        text = f"<a:EndpointReference>{value.xml()}</a:EndpointReference>" if isinstance(value, Epr) else escape(value)
        items.append(f"<w:Selector Name={quoteattr(name)}>{text}</w:Selector>")
    return "<w:SelectorSet>" + "".join(items) + "</w:SelectorSet>"


class Instance:
    """An instance as it came: property -> text, None, Epr, Instance, or a list of those where an element repeats."""

    def __init__(self, cls, uri, properties, epr=None):
        self.cls = cls
        self.uri = uri
        self.properties = properties
        self.epr = epr

    def __getitem__(self, name):
        return self.properties[name]

    def __repr__(self):
        return f"{self.cls}{self.properties}"

    @staticmethod
    def read(element):
        properties = {}
        for child in element:
            rule(space(child) == space(element), f"{local(element)}.{local(child)}: not in its class's namespace")
            value = read_value(child)
            name = local(child)
            if name not in properties:
                properties[name] = value
                continue
            if not isinstance(properties[name], list):
                properties[name] = [properties[name]]
            rule(value is not None and properties[name][0] is not None, f"{local(element)}.{name}: nil inside an array")
            properties[name].append(value)
        return Instance(local(element), space(element), properties)


def read_value(element):
    if element.get(q(XSI, "nil")) in ("true", "1"):
        rule(len(element) == 0 and not (element.text or "").strip(), f"{local(element)}: nil, and yet there is something")
        return None
    if len(element) == 0:
        return element.text or ""
    if element.find(q(A, "ReferenceParameters")) is not None:
        return Epr.read(element)
    first = element[0]
    if space(first) == CIM:
        rule(local(first) in ("Datetime", "Interval", "Date", "Time"), f"{local(element)}: unknown form {local(first)}")
        return first.text or ""
    kind = element.get(q(XSI, "type"), "")
    rule(kind.endswith("_Type"), f"{local(element)}: an embedded object without xsi:type")
    inner = Instance.read(element)
    inner.cls = kind.rpartition(":")[2][: -len("_Type")]
    return inner


class Reply:
    """A checked envelope."""

    def __init__(self, body, action):
        self.body = body
        self.action = action

    def only(self, namespace, name):
        rule(len(self.body) == 1, f"the body holds {len(self.body)} elements, not 1")
        element = self.body[0]
        rule(element.tag == q(namespace, name), f"the body holds {element.tag}, not {name}")
        return element


def parse(data):
    """The document, with the prefixes that its root and the first child of its Body declare."""
    rule(not data.startswith(b"\xef\xbb\xbf"), "the reply begins with a byte order mark")
    declared, pending, depth, in_body, first = {}, {}, 0, False, None
    root = None
    for event, item in ET.iterparse(io.BytesIO(data), events=("start-ns", "start", "end")):
        if event == "start-ns":
            pending[item[0]] = item[1]
        elif event == "start":
            depth += 1
            if depth == 1:
                root, declared = item, dict(pending)
            elif depth == 2:
                in_body = item.tag == q(S, "Body")
            elif depth == 3 and in_body and first is None:
                first = dict(pending)
            pending = {}
        else:
            depth -= 1
    return root, declared, first or {}


class Wsman:
    """A connection to one host and one namespace, in one of the two families of resource URIs."""

    def __init__(self, host, port, user, password, ca=None, namespace="root/virtualization/v2", family="wmi"):
        self.host, self.port, self.ca = host, port, ca
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.certificate = None
        self.namespace, self.family = namespace, family
        self.connection = None
        self.path = "/wsman"
        self.max_envelope = 512000
        self.largest = 0
        self.seen = set()

    def show_certificate(self, certificate, key):
        """Logs in by a client certificate from now on."""
        self.authorization = MUTUAL
        self.certificate = certificate, key

    # Addresses.

    def uri(self, cls):
        if self.family == "wmi":
            return f"http://schemas.microsoft.com/wbem/wsman/1/wmi/{self.namespace}/{cls}"
        if cls == "*":
            return "http://schemas.dmtf.org/wbem/wscim/1/*"
        return f"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/{cls}"

    def selectors(self, keys=()):
        """Keys as selectors, and the namespace where this family of URIs does not say it."""
        keys = dict(keys)
        if self.family != "wmi":
            keys["__cimnamespace"] = self.namespace
        return keys

    # HTTP.

    def post(self, data, headers=None, authorize=True):
        """Sends bytes, gives status, headers and body. The connection is kept, as clients do."""
        sent = {"Content-Type": "application/soap+xml;charset=UTF-8", "User-Agent": "Microsoft WinRM Client"}
        if authorize:
            sent["Authorization"] = self.authorization
        sent.update(headers or {})
        for attempt in (1, 2):
            if self.connection is None:
                if self.ca is None:
                    self.connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
                else:
                    context = ssl.create_default_context(cafile=self.ca)
                    if self.certificate is not None:
                        context.load_cert_chain(*self.certificate)
                    self.connection = http.client.HTTPSConnection(self.host, self.port, timeout=120, context=context)
            try:
                self.connection.request("POST", self.path, body=data, headers=sent)
                reply = self.connection.getresponse()
                body = reply.read()
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
                # The server may close an idle connection; asking once more is what clients do.
                self.connection = None
                if attempt == 2:
                    raise
        rule(reply.getheader("Transfer-Encoding") is None, "the reply has a Transfer-Encoding")
        rule(reply.getheader("Content-Length") is not None, "the reply has no Content-Length")
        if (reply.getheader("Connection") or "").lower() == "close":
            self.connection.close()
            self.connection = None
        return reply.status, reply.headers, body

    # Envelopes.

    def envelope(self, action, uri, body, selectors=None, options=(), headers=""):
        message = f"uuid:{str(uuid.uuid4()).upper()}"
        option_set = "".join(f"<w:Option Name={quoteattr(n)}>{escape(v)}</w:Option>" for n, v in options)
        if option_set:
            option_set = f'<w:OptionSet s:mustUnderstand="true">{option_set}</w:OptionSet>'
        scheme = "http" if self.ca is None else "https"
        text = (
            f'<s:Envelope xmlns:s="{S}" xmlns:a="{A}" xmlns:w="{W}" xmlns:n="{N}" xmlns:xsi="{XSI}" '
            'xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><s:Header>'
            f"<a:To>{scheme}://{self.host}:{self.port}/wsman</a:To>"
            f'<w:ResourceURI s:mustUnderstand="true">{escape(uri)}</w:ResourceURI>'
            f'<a:ReplyTo><a:Address s:mustUnderstand="true">{ANONYMOUS}</a:Address></a:ReplyTo>'
            f'<a:Action s:mustUnderstand="true">{escape(action)}</a:Action>'
            f'<w:MaxEnvelopeSize s:mustUnderstand="true">{self.max_envelope}</w:MaxEnvelopeSize>'
            f"<a:MessageID>{message}</a:MessageID>"
            '<w:Locale xml:lang="en-US" s:mustUnderstand="false"/><p:DataLocale xml:lang="en-US" s:mustUnderstand="false"/>'
            f'<p:SessionId s:mustUnderstand="false">uuid:{uuid.uuid4()}</p:SessionId>'
            f'<w:OperationTimeout>PT60.000S</w:OperationTimeout>'
            f"{selector_set(selectors)}{option_set}{headers}"
            f"</s:Header><s:Body>{body}</s:Body></s:Envelope>"
        )
        return message, text.encode()

    def exchange(self, action, uri, body, selectors=None, reply_action=None, options=(), headers=""):
        """One request and its checked reply; raises Fault when that is the answer."""
        message, data = self.envelope(action, uri, body, selectors, options, headers)
        status, http_headers, answer = self.post(data)
        return self.checked(status, http_headers, answer, message, reply_action or action + "Response")

    def checked(self, status, headers, answer, message, action):
        rule(status in (200, 400, 500), f"HTTP status {status}")
        kind = headers.get("Content-Type", "")
        rule(kind.replace(" ", "").lower() == "application/soap+xml;charset=utf-8", f"Content-Type {kind!r}")
        rule(len(answer) <= self.max_envelope, f"an envelope of {len(answer)} bytes; {self.max_envelope} were allowed")
        self.largest = max(self.largest, len(answer))
        root, declared, inner = parse(answer)
        rule(root.tag == q(S, "Envelope"), f"the root is {root.tag}")
        for prefix, namespace in (("s", S), ("a", A), ("w", W)):
            rule(declared.get(prefix) == namespace, f"prefix {prefix} is bound to {declared.get(prefix)} on the envelope")
        rule([c.tag for c in root] == [q(S, "Header"), q(S, "Body")], "an envelope is a header and a body")
        header, body = root

        def said(name):
            found = header.findall(q(A, name))
            rule(len(found) == 1, f"{len(found)} a:{name} in the header")
            return found[0].text

        rule(said("RelatesTo") == message, f"RelatesTo {said('RelatesTo')} does not name {message}")
        rule(said("To") == ANONYMOUS, f"To {said('To')}")
        own = said("MessageID")
        rule(own.startswith("uuid:") and own not in self.seen, f"MessageID {own}")
        self.seen.add(own)
        is_fault = len(body) == 1 and body[0].tag == q(S, "Fault")
        if is_fault:
            rule(status in (400, 500), f"a fault with HTTP status {status}")
            rule(said("Action") in FAULT_ACTIONS, f"a fault with the action {said('Action')}")
            raise self.read_fault(body[0], status, {**declared, **inner})
        rule(status == 200, f"no fault, and HTTP status {status}")
        rule(said("Action") == action, f"Action {said('Action')}, not {action}")
        reply = Reply(list(body), said("Action"))
        reply.prefixes = {**declared, **inner}
        return reply

    @staticmethod
    def read_fault(fault, status, declared):
        rule([local(c) for c in fault][:3] == ["Code", "Reason", "Detail"][: len(fault)], "the parts of a fault")
        code = fault.findtext(f"{q(S, 'Code')}/{q(S, 'Value')}")
        rule(code in ("s:Sender", "s:Receiver", "s:MustUnderstand"), f"fault code {code}")
        subcode = fault.findtext(f"{q(S, 'Code')}/{q(S, 'Subcode')}/{q(S, 'Value')}")
        rule(subcode is None or subcode.partition(":")[0] in declared, f"the prefix of {subcode} is not declared")
        reason = fault.find(f"{q(S, 'Reason')}/{q(S, 'Text')}")
        rule(reason is not None and (reason.text or "").strip(), "a fault without a reason")
        rule(reason.get("{http://www.w3.org/XML/1998/namespace}lang"), "a reason without its language")
        detail = fault.findtext(f"{q(S, 'Detail')}/{q(W, 'FaultDetail')}") or ""
        message = fault.findtext(f"{q(S, 'Detail')}/{q(F, 'WSManFault')}/{q(F, 'Message')}")
        rule(message, "a fault without WSManFault/Message")
        rule(not detail or detail.startswith(DETAIL), f"fault detail {detail}")
        return Fault(code, subcode, detail[len(DETAIL) :], reason.text, message, status)

    # Operations.

    def identify(self, authorize=True, headers=None):
        data = f'<s:Envelope xmlns:s="{S}" xmlns:i="{ID}"><s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>'
        status, http_headers, answer = self.post(data.encode(), headers, authorize)
        if status != 200:
            return status, http_headers, None
        root, _, _ = parse(answer)
        response = root.find(f"{q(S, 'Body')}/{q(ID, 'IdentifyResponse')}")
        rule(response is not None, "no IdentifyResponse")
        return status, http_headers, {local(c): c.text for c in response}

    def get(self, cls, keys=()):
        return self.get_epr(Epr(self.uri(cls), self.selectors(keys)))

    def get_epr(self, epr, action=X + "/Get"):
        reply = self.exchange(action, epr.uri, "", epr.selectors)
        rule(len(reply.body) == 1, "Get gives one instance")
        found = Instance.read(reply.body[0])
        rule(reply.prefixes.get("p") == found.uri, "an instance's namespace has the prefix p")
        found.epr = epr
        return found

    def describe(self, cls):
        """The class as CIM-XML, as clients fetch it before they type what they send."""
        uri = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*"
        reply = self.exchange(X + "/Get", uri, "", {"__cimnamespace": self.namespace, "ClassName": cls})
        rule(len(reply.body) == 1 and local(reply.body[0]) == "CLASS", "a description is one CLASS")
        return reply.body[0]

    def enumerate(self, cls, filter_xml="", mode=None, optimize=None, pull_max=None, stop_after=None, keys=()):
        """All items. `optimize`: MaxElements of an optimised request; `pull_max`: MaxElements of each Pull, none by default."""
        uri, selectors = self.uri(cls), self.selectors(keys)
        inner = filter_xml
        if optimize is not None:
            inner = f"<w:OptimizeEnumeration/><w:MaxElements>{optimize}</w:MaxElements>" + inner
        if mode:
            inner += f"<w:EnumerationMode>{mode}</w:EnumerationMode>"
        reply = self.exchange(N + "/Enumerate", uri, f"<n:Enumerate>{inner}</n:Enumerate>", selectors)
        response = reply.only(N, "EnumerateResponse")
        context = response.find(q(N, "EnumerationContext"))
        rule(context is not None, "EnumerateResponse without an EnumerationContext")
        items, done = [], False
        if optimize is None:
            rule(response.find(q(W, "Items")) is None, "items without having asked for an optimised enumeration")
        else:
            found = response.find(q(W, "Items"))
            rule(found is not None, "an optimised EnumerateResponse without w:Items")
            items += [self.item(i, mode) for i in found]
            rule(len(items) <= optimize, f"{len(items)} items where {optimize} were allowed")
            done = response.find(q(W, "EndOfSequence")) is not None
            rule(done != bool(context.text), "the context is empty when and only when the sequence has ended")
        while not done:
            if stop_after is not None and len(items) >= stop_after:
                self.release(uri, selectors, context.text)
                break
            fresh, context, done = self.pull(uri, selectors, context, pull_max, mode)
            items += fresh
        return items

    def pull(self, uri, selectors, context, most, mode):
        limit = f"<n:MaxElements>{most}</n:MaxElements>" if most else ""
        body = f"<n:Pull><n:EnumerationContext>{escape(context.text)}</n:EnumerationContext>{limit}</n:Pull>"
        response = self.exchange(N + "/Pull", uri, body, selectors).only(N, "PullResponse")
        found = response.find(q(N, "Items"))
        rule(found is not None, "PullResponse without n:Items")
        items = [self.item(i, mode) for i in found]
        done = response.find(q(N, "EndOfSequence")) is not None
        again = response.find(q(N, "EnumerationContext"))
        rule(len(items) <= (most or 1), f"{len(items)} items in a Pull that allows {most or 1}")
        rule(done == (again is None), "a PullResponse ends the sequence or has a context")
        rule(items or done, "a Pull gave nothing and did not end the sequence")
        return items, again if again is not None else context, done

    def release(self, uri, selectors, context):
        body = f"<n:Release><n:EnumerationContext>{escape(context)}</n:EnumerationContext></n:Release>"
        reply = self.exchange(N + "/Release", uri, body, selectors)
        rule(reply.body == [], "the answer to Release is empty")

    def item(self, element, mode):
        if mode == "EnumerateEPR":
            rule(element.tag == q(A, "EndpointReference"), f"{element.tag} is no a:EndpointReference")
            return Epr.read(element)
        if mode == "EnumerateObjectAndEPR":
            rule(element.tag == q(W, "Item") and len(element) == 2, f"{element.tag} is no w:Item of two")
            found = Instance.read(element[0])
            rule(element[1].tag == q(A, "EndpointReference"), "the second part of a w:Item is its reference")
            found.epr = Epr.read(element[1])
            return found
        if element.tag == q(W, "XmlFragment"):
            return {local(c): read_value(c) for c in element}
        rule(element.get(q(XSI, "type"), "").endswith(local(element) + "_Type"), f"{local(element)}: xsi:type")
        return Instance.read(element)

    @staticmethod
    def wql(text):
        return f'<w:Filter Dialect="{WQL}">{escape(text)}</w:Filter>'

    @staticmethod
    def associated(epr, association=None, result=None, role=None, result_role=None, associations=False):
        """The filter of Get-CimAssociatedInstance."""
        kind = "AssociationInstances" if associations else "AssociatedInstances"
        inner = f"<b:Object>{epr.xml()}</b:Object>"
        for name, value in (
            ("AssociationClassName", association),
            ("Role", role),
            ("ResultClassName", result),
            ("ResultRole", result_role),
        ):
            if value is not None:
                inner += f"<b:{name}>{escape(value)}</b:{name}>"
        return f'<w:Filter Dialect="{ASSOCIATIONS}" xmlns:b="{B}"><b:{kind}>{inner}</b:{kind}></w:Filter>'

    @staticmethod
    def selected(keys):
        return f'<w:Filter Dialect="{SELECTORS}">{selector_set(keys)}</w:Filter>'

    def invoke(self, epr, method, parameters=(), cls=None):
        """Calls a method; parameters are pairs of a name and `None`, text, an Epr, `Raw`, or a list of those."""
        uri = epr.uri if cls is None else self.uri(cls)
        body = f'<p:{method}_INPUT xmlns:p="{escape(uri)}">'
        for name, value in parameters:
            for one in value if isinstance(value, list) else [value]:
                body += self.parameter(name, one)
        body += f"</p:{method}_INPUT>"
        reply = self.exchange(f"{uri}/{method}", uri, body, epr.selectors)
        output = reply.only(uri, f"{method}_OUTPUT")
        rule(reply.prefixes.get("p") == uri, f"prefix p of {method}_OUTPUT is bound to {reply.prefixes.get('p')}")
        result = Instance.read(output).properties
        rule(str(result.get("ReturnValue", "")).isdigit(), f"{method}: ReturnValue {result.get('ReturnValue')!r}")
        return int(result.pop("ReturnValue")), result

    @staticmethod
    def parameter(name, value):
        if value is None:
            return f'<p:{name} xsi:nil="true"/>'
        if isinstance(value, Epr):
            return f"<p:{name}>{value.xml()}</p:{name}>"
        if isinstance(value, Raw):
            return f"<p:{name}>{value.xml}</p:{name}>"
        if isinstance(value, bool):
            return f"<p:{name}>{'true' if value else 'false'}</p:{name}>"
        return f"<p:{name}>{escape(str(value))}</p:{name}>"


class Raw:
    """Content of a parameter that is XML already."""

    def __init__(self, xml):
        self.xml = xml


def cdata(text):
    return Raw("<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>")


def embedded(cls, properties):
    """The text of an embedded instance, CIM DTD 2.0: properties are name -> (type, value)."""
    parts = []
    for name, (kind, value) in properties.items():
        if isinstance(value, list):
            inner = "".join(f"<VALUE>{escape(plain(v))}</VALUE>" for v in value)
            parts.append(
                f'<PROPERTY.ARRAY NAME="{name}" TYPE="{kind}"><VALUE.ARRAY>{inner}</VALUE.ARRAY></PROPERTY.ARRAY>'
            )
        elif value is None:
            parts.append(f'<PROPERTY NAME="{name}" TYPE="{kind}"></PROPERTY>')
        else:
            parts.append(f'<PROPERTY NAME="{name}" TYPE="{kind}"><VALUE>{escape(plain(value))}</VALUE></PROPERTY>')
    return f'<INSTANCE CLASSNAME="{cls}">{"".join(parts)}</INSTANCE>'


def plain(value):
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value)


def read_embedded(text):
    """Class and properties of an embedded instance that came as text."""
    root = ET.fromstring(text)
    rule(root.tag == "INSTANCE", f"an embedded instance begins with {root.tag}")
    properties = {}
    for child in root:
        if child.tag == "PROPERTY":
            properties[child.get("NAME")] = child.findtext("VALUE")
        elif child.tag == "PROPERTY.ARRAY":
            values = child.find("VALUE.ARRAY")
            properties[child.get("NAME")] = None if values is None else [v.text or "" for v in values]
        else:
            rule(child.tag in ("QUALIFIER", "PROPERTY.REFERENCE"), f"{child.tag} in an INSTANCE")
        rule(child.get("NAME"), "a property without a name")
    return Instance(root.get("CLASSNAME"), None, properties)
