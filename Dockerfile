# TokenScope open to strangers. docs/hosting.md: the limits, how to set them, what was tried.
FROM python:3.11-slim AS kernel
RUN apt-get update && apt-get install --yes --no-install-recommends g++
COPY ext /src/ext/
# It chooses the instruction set when it runs, so the builder's CPU does not matter.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src/ext

FROM python:3.11-slim

# Empty: torch comes from PyPI and brings CUDA, several gigabytes that a CPU host never uses.
# docs/hosting.md says which index to give here instead.
ARG TORCH_INDEX=""

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The kernel's threads; everything else comes with its wheel.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt ./
COPY --from=kernel /wheels /tmp/wheels/
# torch first: whatever else asks for it is then content with this build.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.txt)" \
 && grep -v '^\./' requirements.txt > /tmp/requirements.txt \
 && pip install -r /tmp/requirements.txt /tmp/wheels/*.whl \
 && python -c "import tokenkernel; assert tokenkernel.HAVE"

COPY LICENSE app.py asgi.py ./
COPY .streamlit/config.toml .streamlit/
COPY cache cache/
COPY engine engine/
COPY pages pages/
COPY demo/models demo/models/
COPY demo/gallery demo/gallery/
# The sources belong to root and stay as they are; only the store's folder can be written.
RUN python -m compileall -q app.py asgi.py cache engine pages \
 && useradd --create-home --uid 1000 user \
 && install --directory --owner=user --group=user /home/user/tokenscope

ENV HOME=/home/user \
    TOKENSCOPE_PROFILE=hosted \
    TOKENSCOPE_HOME=/home/user/tokenscope \
    HF_HUB_OFFLINE=1 \
    PORT=8501
USER 1000
EXPOSE 8501

HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/_stcore/health', timeout=4)"]

# exec: the server itself gets the signal to stop, and closes the store.
CMD ["sh", "-c", "exec python -m streamlit run asgi.py --server.address 0.0.0.0 --server.port \"$PORT\""]
