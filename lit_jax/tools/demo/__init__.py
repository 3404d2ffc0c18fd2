"""A small web page of a model: a picture and labels in, probabilities out; and a search in the pictures of an index.

It is for the person at this machine. It listens on the loopback address unless told otherwise, answers only to host
names that its user knows and to requests of its own page, loads nothing from elsewhere, and shows no picture outside
the places that its user names. A request is limited in bytes and pixels, in the seconds for its head, for its body and
for opening its picture, and in the places for requests that wait.

| file | idea |
| --- | --- |
| `access.py` | the address that it listens on and the host names that it answers to |
| `server.py` | listening, connections and their deadlines |
| `guards.py` | what every request passes: headers, size, time, host and origin |
| `app.py` | the application, and the answers of the page |
| `answers.py` | HTML, or a mistake, as an answer |
| `api.py`, `api_fields.py` | the JSON interface below /api, and the fields of its questions |
| `batcher.py` | items that come together are computed together |
| `jobs.py` | calls that wait for a thread |
| `later.py` | refusals of what may be asked again soon |
| `pictures.py` | the pictures of an index |
| `opener.py` | a process that opens pictures |
"""
