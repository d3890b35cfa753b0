"""A drawn world of people and cameras, written as PRW or CUHK-SYSU.

The paper's problem in a bottle: with `--context-bias`, surroundings tell who somebody is, but in
the training part only.

`world` says who exists, `plan` who stands where and in front of what, `figure`, `texture`,
`backdrop` and `draw` turn that into pixels, `write` puts it on disk.
"""
