"""An OpenID Connect issuer: a real RSA key, its key set over HTTP, and tokens."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def encoded(data):
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value):
    return encoded(value.to_bytes((value.bit_length() + 7) // 8))


class Issuer:
    """Serves its key set until it is closed."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(issuer.key_set()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"http://127.0.0.1:{self.server.server_port}"
        self.jwks_url = f"{self.name}/keys"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def key_set(self):
        public = self.key.public_key().public_numbers()
        key = {"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256"}
        return {"keys": [{**key, "n": number(public.n), "e": number(public.e)}]}

    def token(self, **claims):
        now = int(time.time())
        claims = {"iss": self.name, "aud": "uploads", "iat": now, "exp": now + 3600, **claims}
        head = encoded({"alg": "RS256", "typ": "JWT", "kid": "one"})
        signed = f"{head}.{encoded(claims)}"
        return f"{signed}.{encoded(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
